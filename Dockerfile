# Patchbay's image: a static binary beside nft and iptables. make image builds it.
#
# It runs with a read-only root file system: what it writes is under /run, where
# iptables has its lock (/run/xtables.lock) and the agent its sockets; mount the
# host's /run, or an emptyDir and the host's lock, there.
ARG BASE_IMAGE=debian:trixie-slim
FROM ${BASE_IMAGE}

# A base that has both already, as hack/kind/base-image.sh makes it, takes no network.
RUN if ! { command -v nft && command -v iptables; }; then \
      apt-get update && \
      apt-get install -y --no-install-recommends nftables iptables && \
      rm -rf /var/lib/apt/lists/*; \
    fi

COPY bin/patchbay /usr/local/bin/patchbay

LABEL org.opencontainers.image.title="Patchbay" \
      org.opencontainers.image.description="Networks on Linux nodes, from manifests" \
      org.opencontainers.image.source="https://github.com/patchbay-dev/patchbay" \
      org.opencontainers.image.licenses="Apache-2.0"

ENTRYPOINT ["/usr/local/bin/patchbay"]
