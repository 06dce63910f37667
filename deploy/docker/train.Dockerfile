# syntax=docker/dockerfile:1
# Training and export on CPUs. From the repository's root:
#   docker build -f deploy/docker/train.Dockerfile -t cornet-train:0.1.0 .
#   docker run --read-only --tmpfs /tmp -v models:/models cornet-train:0.1.0 train regressor --repository /models --runs /tmp/runs
FROM python:3.11.14-slim-bookworm AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY deploy/locks/train.txt ./deploy/locks/
RUN python -m pip install --no-cache-dir --disable-pip-version-check uv==0.13.9 \
 && uv venv /opt/cornet \
 && VIRTUAL_ENV=/opt/cornet uv pip sync deploy/locks/train.txt
COPY pyproject.toml README.md LICENSE ./
COPY protos ./protos
COPY services ./services
COPY training ./training
RUN VIRTUAL_ENV=/opt/cornet uv pip install --no-deps .

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="cornet train" \
      org.opencontainers.image.description="Train Keras models, prove their exports and publish them" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore setuptools wheel pip \
 && groupadd --gid 10001 cornet \
 && useradd --uid 10001 --gid cornet --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cornet \
 && install --directory --owner=cornet --group=cornet /models
COPY --from=build /opt/cornet /opt/cornet
ENV PATH=/opt/cornet/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1 \
    KERAS_HOME=/tmp/keras \
    MPLCONFIGDIR=/tmp/matplotlib \
    TF_CPP_MIN_LOG_LEVEL=2
WORKDIR /tmp
USER 10001:10001
VOLUME /models
STOPSIGNAL SIGTERM
# A run ends by itself: its exit status is its health.
HEALTHCHECK NONE
ENTRYPOINT ["cornet"]
CMD ["train", "--help"]
