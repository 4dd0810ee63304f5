# The edge agent: numpy, onnxruntime and an MQTT client; no torch, no root.
#   docker build -f docker/edge.Dockerfile -t edgeloop-edge .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/edgeloop
WORKDIR /src
# The dependencies alone first: they stay cached while the source changes.
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY shared/__init__.py shared/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=docker/wheels,target=/wheels \
    /opt/edgeloop/bin/pip install --quiet --find-links /wheels -c constraints.txt ".[edge]"
COPY shared shared
COPY edge_agent edge_agent
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/edgeloop/bin/pip install --quiet --no-deps --force-reinstall . \
    && rm /opt/edgeloop/bin/edgeloop

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/edge-agent edge
COPY --from=build /opt/edgeloop /opt/edgeloop
# onnxruntime reports to its maker unless told not to.
ENV PATH=/opt/edgeloop/bin:$PATH PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1 \
    EDGE_AGENT__STATE_DIR=/var/lib/edge-agent
USER edge
WORKDIR /var/lib/edge-agent
VOLUME /var/lib/edge-agent
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["edge-agent", "status", "--config", "/etc/edge-agent/agent.toml"]
ENTRYPOINT ["edge-agent"]
CMD ["run", "--config", "/etc/edge-agent/agent.toml"]
