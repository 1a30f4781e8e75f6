# The gate and nothing else: one static binary, no shell, no library, no user but its own. And the certificates that mail servers and
# sites are checked by; mount others over /etc/ssl/certs/ca-certificates.crt.
#
#   docker build -t tidegate .
#   docker run -d --name gate -p 8080:8080 -v "$PWD/config:/etc/tidegate:ro" -v tidegate-data:/var/lib/tidegate tidegate
#
# config/gate.yaml needs `listen: { http: 0.0.0.0:8080 }` and `data: /var/lib/tidegate`. Mount the directory and not the file: an
# editor that replaces the file would otherwise go unnoticed inside. More in docs/operations.md.

FROM rust:1-bookworm AS build
WORKDIR /src
# linked into the binary, so that the last stage can be empty; with --target it holds for the gate and not for build scripts
ENV RUSTFLAGS="-C target-feature=+crt-static"

# the dependencies are a layer of their own: they are built again only when Cargo.toml or Cargo.lock change
COPY Cargo.toml Cargo.lock ./
RUN set -eu; \
    mkdir -p src benches tests/it; \
    touch src/lib.rs; \
    for file in src/main.rs tests/it/main.rs $(sed -n '/^\[\[bench\]\]/{n;s|^name = "\(.*\)"|benches/\1.rs|p}' Cargo.toml); do \
        echo 'fn main() {}' > "$file"; \
    done; \
    rustc -vV | sed -n 's/^host: //p' > /target; \
    cargo build --release --locked --bin tidegate --target "$(cat /target)"; \
    rm -r src benches tests

COPY . .
# the files just copied can be older than what was built from the empty ones
RUN set -eu; \
    touch src/lib.rs src/main.rs; \
    cargo build --release --locked --bin tidegate --target "$(cat /target)"; \
    mkdir -p /image/etc/tidegate /image/etc/ssl/certs /image/var/lib/tidegate; \
    cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/; \
    chmod 0700 /image/var/lib/tidegate; \
    echo 'hosts: files dns' > /image/etc/nsswitch.conf; \
    cp "target/$(cat /target)/release/tidegate" /image/tidegate

FROM scratch
COPY --from=build --chown=65532:65532 /image/ /
USER 65532:65532
# keys, state: what must outlive the container
VOLUME /var/lib/tidegate
EXPOSE 8080
# SIGTERM drains; give it longer than shutdown.delay and shutdown.deadline: docker stop --time 45
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=10s --retries=3 CMD ["/tidegate", "healthcheck", "--config", "/etc/tidegate/gate.yaml"]
ENTRYPOINT ["/tidegate"]
CMD ["serve", "--config", "/etc/tidegate/gate.yaml"]
