# syntax=docker/dockerfile:1
# Batch jobs, on one machine or as the pods of a Ray cluster. ACCELERATOR=gpu takes the GPU runtime. From the repository's root:
#   docker build -f deploy/docker/batch.Dockerfile --build-arg ACCELERATOR=cpu -t cornet-batch:0.1.0 .
FROM python:3.11.14-slim-bookworm AS build
ARG ACCELERATOR=cpu
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY deploy/locks/batch-${ACCELERATOR}.txt ./deploy/locks/
RUN python -m pip install --no-cache-dir --disable-pip-version-check uv==0.13.9 \
 && uv venv /opt/cornet \
 && VIRTUAL_ENV=/opt/cornet uv pip sync "deploy/locks/batch-${ACCELERATOR}.txt"
COPY pyproject.toml README.md LICENSE ./
COPY protos ./protos
COPY services ./services
COPY training ./training
RUN VIRTUAL_ENV=/opt/cornet uv pip install --no-deps .

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="cornet batch" \
      org.opencontainers.image.description="Predictions for files, tables and object storage, on one machine or on Ray" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore setuptools wheel pip \
 && groupadd --gid 10001 cornet \
 && useradd --uid 10001 --gid cornet --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cornet \
 && install --directory --owner=cornet --group=cornet /models \
 && ln -s /opt/cornet/bin/cornet /opt/cornet/bin/ray /usr/local/bin/
COPY --from=build /opt/cornet /opt/cornet
ENV PATH=/opt/cornet/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1 \
    CORNET_REPOSITORY=/models \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_USAGE_STATS_REPORT_URL=http://127.0.0.1:9/ \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/opt/cornet/lib/python3.11/site-packages/nvidia/cu13/lib:/opt/cornet/lib/python3.11/site-packages/nvidia/cudnn/lib
WORKDIR /tmp
USER 10001:10001
VOLUME /models
STOPSIGNAL SIGTERM
# A job ends by itself: its exit status is its health.
HEALTHCHECK NONE
ENTRYPOINT ["cornet"]
CMD ["batch", "--help"]
