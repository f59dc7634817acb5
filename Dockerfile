# The registry, a static binary in an empty image, and what the controller and its Jobs run:
#
#   docker build -t dvcr . && docker run -p 5000:5000 -v dvcr:/data dvcr
#   docker build -t dvcr-controller --target controller .

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# For who wants the image sooner and not the fastest program: --build-arg CARGO_PROFILE_RELEASE_OPT_LEVEL=1
ARG CARGO_PROFILE_RELEASE_OPT_LEVEL=3
ARG CARGO_PROFILE_RELEASE_LTO=thin
ARG CARGO_PROFILE_RELEASE_CODEGEN_UNITS=4
# glibc linked statically resolves names from /etc/hosts and DNS without any file of its own.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
 && cargo build --release --locked --target "$target" \
 && mkdir -p /out/data /out/etc/ssl/certs \
 && cp "target/$target/release/dvcr" /out/dvcr \
 && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ \
 && chown -R 65532:65532 /out/data

# The same binary beside qemu-img, which writes disks of every format raw into claims.
FROM debian:bookworm-slim AS controller
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates qemu-utils \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/dvcr /dvcr
USER 65532:65532
ENTRYPOINT ["/dvcr"]
CMD ["controller"]

FROM scratch
COPY --from=build /out/ /
# Nobody in particular, without a name in any file.
USER 65532:65532
ENV DVCR_LISTEN=0.0.0.0:5000 DVCR_DATA=/data
VOLUME /data
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=30s --start-period=5s CMD ["/dvcr", "healthcheck"]
ENTRYPOINT ["/dvcr"]
CMD ["serve"]
