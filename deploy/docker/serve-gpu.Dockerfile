# syntax=docker/dockerfile:1
# Serving from NVIDIA GPUs: CUDA 13 and cuDNN are Python wheels, so the base is the same slim one; the host brings the driver
# and the NVIDIA container toolkit. From the repository's root:
#   docker build -f deploy/docker/serve-gpu.Dockerfile -t cornet-serve-gpu:0.1.0 .
#   docker run --gpus 1 --read-only --tmpfs /tmp -v "$PWD/exported_models:/models:ro" -p 8500:8500 -p 8501:8501 cornet-serve-gpu:0.1.0
FROM python:3.11.14-slim-bookworm AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY deploy/locks/gpu.txt ./deploy/locks/
RUN python -m pip install --no-cache-dir --disable-pip-version-check uv==0.13.9 \
 && uv venv /opt/cornet \
 && VIRTUAL_ENV=/opt/cornet uv pip sync deploy/locks/gpu.txt
COPY pyproject.toml README.md LICENSE ./
COPY protos ./protos
COPY services ./services
COPY training ./training
RUN VIRTUAL_ENV=/opt/cornet uv pip install --no-deps .

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="cornet serve (GPU)" \
      org.opencontainers.image.description="TensorFlow Serving's and the Open Inference Protocol's dialects on ONNX Runtime with CUDA" \
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
    BENTOML_DO_NOT_TRACK=true \
    BENTOML_HOME=/tmp/bentoml \
    CORNET_HOST=0.0.0.0 \
    CORNET_REPOSITORY=/models \
    CORNET_LOG_FORMAT=json \
    CORNET_PROVIDERS=CUDAExecutionProvider,CPUExecutionProvider \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/opt/cornet/lib/python3.11/site-packages/nvidia/cu13/lib:/opt/cornet/lib/python3.11/site-packages/nvidia/cudnn/lib
WORKDIR /models
USER 10001:10001
VOLUME /models
EXPOSE 8500 8501
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/readyz', timeout=4)"]
ENTRYPOINT ["cornet"]
CMD ["serve"]
