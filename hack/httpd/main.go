// Command httpd answers every HTTP request with a line of text and the address
// that it sees the client under. The demo runs it inside a namespace.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: httpd ADDRESS:PORT TEXT")
	}
	server := &http.Server{
		Addr:              os.Args[1],
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s (you are %s)\n", os.Args[2], r.RemoteAddr)
		}),
	}
	log.Fatal(server.ListenAndServe())
}
