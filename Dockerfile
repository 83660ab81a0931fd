# The image contains one static program and the public certificate authorities. It does not set a user: existing charts
# run their provider as root, which may write to the host's folder of sockets. The manifests in deploy/ set a user.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY . .
# The explicit target, although it is the host's own, keeps build scripts and macros from being linked statically.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target=$(rustc --print host-tuple) \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target "$target" \
    && cp "target/$target/release/vaultmount" /vaultmount

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="vaultmount"
LABEL org.opencontainers.image.description="Secrets Store CSI driver provider for HashiCorp Vault and OpenBao"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.version="$VERSION"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /vaultmount /bin/vaultmount
ENTRYPOINT ["/bin/vaultmount"]
