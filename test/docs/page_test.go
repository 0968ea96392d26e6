package docs

import (
	"regexp"
	"strings"
)

// page is what of a Markdown page can be wrong.
type page struct {
	blocks []block
	// rows are the table rows about fields, by the kind that the last heading
	// with a kind's name names.
	rows map[string][]row
	// headers are the first lines of tables in blocks that begin as kubectl's do.
	headers []string
	// links are what links lead to, anchors what headings without links in them can
	// be linked as.
	links, anchors []string
}

// block is a fenced block.
type block struct {
	language string
	text     string
}

// row is a line of a table whose first cell is a field in code.
type row struct {
	field string
	cells []string
}

var (
	heading    = regexp.MustCompile(`^#+ (.*)$`)
	fieldCell  = regexp.MustCompile("^`([A-Za-z0-9.\\[\\]]+)`$")
	linkTarget = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	notAnchor  = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// parsePage reads Markdown as these pages are written: fences of three
// backquotes, tables without escaped bars.
func parsePage(text string) page {
	p := page{rows: map[string][]row{}}
	kind, fenced := "", false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch trimmed := strings.TrimSpace(line); {
		case strings.HasPrefix(trimmed, "```"):
			if fenced = !fenced; fenced {
				p.blocks = append(p.blocks, block{language: strings.TrimPrefix(trimmed, "```")})
			}
		case fenced:
			p.inBlock(line)
		default:
			p.outside(trimmed, &kind)
		}
	}
	return p
}

func (p *page) inBlock(line string) {
	b := &p.blocks[len(p.blocks)-1]
	b.text += line + "\n"
	if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "NAME" {
		p.headers = append(p.headers, strings.Join(fields, " "))
	}
}

func (p *page) outside(line string, kind *string) {
	for _, m := range linkTarget.FindAllStringSubmatch(line, -1) {
		p.links = append(p.links, m[1])
	}
	if m := heading.FindStringSubmatch(line); m != nil {
		p.anchors = append(p.anchors, strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
		for name := range pageOf {
			if strings.Contains(m[1], name) {
				*kind = name
			}
		}
	}
	if r, ok := parseRow(line); ok {
		p.rows[*kind] = append(p.rows[*kind], r)
	}
}

func parseRow(line string) (row, bool) {
	if !strings.HasPrefix(line, "|") || !strings.HasSuffix(line, "|") || len(line) < 2 {
		return row{}, false
	}
	var cells []string
	for cell := range strings.SplitSeq(line[1:len(line)-1], "|") {
		cells = append(cells, strings.TrimSpace(cell))
	}
	m := fieldCell.FindStringSubmatch(cells[0])
	if m == nil {
		return row{}, false
	}
	return row{field: m[1], cells: cells[1:]}, true
}
