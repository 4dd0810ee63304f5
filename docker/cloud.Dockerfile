# The cloud service, with the CPU build of torch for training; no root.
#   docker build -f docker/cloud.Dockerfile -t edgeloop-cloud .
# CUDA build:      --build-arg TORCH_INDEX=https://pypi.org/simple
# no index at all: put wheels into docker/wheels/ (its README says how)
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/edgeloop
WORKDIR /src
COPY constraints.txt ./
# torch in a layer of its own, the largest by far. A wheel in docker/wheels/ wins over every index.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=docker/wheels,target=/wheels \
    set -eu; torch=$(grep '^torch==' constraints.txt); \
    if ls /wheels/torch-*.whl >/dev/null 2>&1; then echo "torch: from docker/wheels/"; set --; \
    else echo "torch: from $TORCH_INDEX"; set -- --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple; fi; \
    /opt/edgeloop/bin/pip install --quiet --find-links /wheels -c constraints.txt "$@" "$torch" numpy
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY shared/__init__.py shared/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=docker/wheels,target=/wheels \
    /opt/edgeloop/bin/pip install --quiet --find-links /wheels -c constraints.txt ".[cloud,postgres]"
COPY shared shared
COPY cloud_service cloud_service
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/edgeloop/bin/pip install --quiet --no-deps --force-reinstall . \
    && rm /opt/edgeloop/bin/edge-agent

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/edgeloop edgeloop
COPY --from=build /opt/edgeloop /opt/edgeloop
# onnxruntime reports to its maker unless told not to. Inside a container the API must listen beyond its loopback;
# publish the port on the host's loopback only (deploy/compose.yaml does).
ENV PATH=/opt/edgeloop/bin:$PATH PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1 \
    EDGELOOP__DATA_DIR=/var/lib/edgeloop EDGELOOP__HTTP__HOST=0.0.0.0
USER edgeloop
WORKDIR /var/lib/edgeloop
VOLUME /var/lib/edgeloop
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["edgeloop"]
CMD ["serve", "--config", "/etc/edgeloop/cloud.toml"]
