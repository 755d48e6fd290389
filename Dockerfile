# The server alone: one executable, the libraries that it loads, the public certificate authorities,
# and the documents that go with them, as a user without rights, without a shell. Built from this
# tree and nothing else.
#
#   docker build --tag tillwatch --build-arg REVISION="$(git rev-parse HEAD)" .
#   docker run --volume tillwatch:/var/lib/tillwatch --volume ./tillwatch.toml:/etc/tillwatch/tillwatch.toml:ro \
#     --read-only --cap-drop ALL --security-opt no-new-privileges --publish 50051:50051 tillwatch
#
# Both listeners are on all addresses, so anonymous callers are refused: make a token with
# `docker run tillwatch token`.

# The base image is pinned by version. If two builds have to give the same bytes, pin its digest as
# well: `--build-arg RUST_DIGEST=@sha256:…`.
ARG RUST_DIGEST=
FROM rust:1.95.0-slim-bookworm${RUST_DIGEST} AS build
WORKDIR /src
COPY . .
RUN scripts/install-deployment sbom && scripts/image-root.sh /image

FROM scratch
# The commit that the image is built from.
ARG REVISION=
LABEL org.opencontainers.image.title="Tillwatch" \
    org.opencontainers.image.description="One gRPC service in front of payment providers: it creates, polls, journals, and pushes each transition" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="scratch"
COPY --from=build /image /
COPY --from=build --chown=65532:65532 /image/var/lib/tillwatch /var/lib/tillwatch
USER 65532:65532
WORKDIR /var/lib/tillwatch
ENV TILLWATCH_LISTEN__GRPC=0.0.0.0:50051
ENV TILLWATCH_LISTEN__OPS=0.0.0.0:9464
ENV TILLWATCH_STORE__URL=sqlite:/var/lib/tillwatch/tillwatch.db
VOLUME /var/lib/tillwatch
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
# There is no shell and no other program in the image: the server asks itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/bin/tillwatch-server", "health"]
ENTRYPOINT ["/usr/bin/tillwatch-server"]
CMD ["serve", "--config", "/etc/tillwatch/tillwatch.toml"]
