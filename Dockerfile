# ckptkit alone, no TensorFlow: `docker build -t ckptkit .`, then
#   docker run --rm --network none --read-only -v "$PWD:/work:ro" ckptkit ls model.keras
# With what runs models: docker build --build-arg EXTRAS=hdf5,tensorflow -t ckptkit:tensorflow .
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
ARG EXTRAS=hdf5,snappy
RUN python -m venv /opt/ckptkit \
 && /opt/ckptkit/bin/python -m pip install --no-cache-dir ".[${EXTRAS}]"

FROM python:3.12-slim
COPY --from=build /opt/ckptkit /opt/ckptkit
RUN useradd --no-create-home --uid 10001 ckptkit
USER 10001
WORKDIR /work
ENTRYPOINT ["/opt/ckptkit/bin/ckptkit"]
CMD ["--help"]
