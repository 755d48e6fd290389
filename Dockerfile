# The server alone: one executable, the libraries that it loads, and the public certificate
# authorities, as a user without rights, without a shell. Built from this tree and nothing else.
#
#   docker build --tag tillwatch .
#   docker run --volume tillwatch:/var/lib/tillwatch --volume ./tillwatch.toml:/etc/tillwatch/tillwatch.toml:ro \
#     --publish 50051:50051 tillwatch
#
# Both listeners are on all addresses, so anonymous callers are refused: make a token with
# `docker run tillwatch token`.

# Pinned by version. If two builds have to give the same bytes, pin the digest as well with
# `--build-arg RUST=rust@sha256:…`.
ARG RUST=rust:1.95.0-slim-bookworm
FROM ${RUST} AS build
WORKDIR /src
COPY . .
RUN bash scripts/image-root.sh /image

FROM scratch
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
