# Two images: `docker build --target cpu .` and `docker build --target cuda .`; see docs/docker.md.
# Both build with the same make targets that continuous integration and a developer's machine use.

# A tag with a digest (debian:12.11-slim@sha256:...) makes the build repeatable; see docs/docker.md.
ARG BASE=docker.io/library/debian:12.11-slim

FROM ${BASE} AS base
SHELL ["/bin/sh", "-eu", "-c"]
# Python, and what the wheels link to without bringing it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libnuma1 libstdc++6 python3 \
    && rm -rf /var/lib/apt/lists/*

# What builds: none of it reaches the images.
FROM base AS tools
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
# Package indexes beside PyPI, such as the one with torch's CPU build, or a mirror.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
# Only what decides which engine is installed: a change in Octet's sources leaves those gigabytes alone.
COPY Makefile pyproject.toml ./
COPY clients/python/pyproject.toml clients/python/
COPY constraints constraints
COPY tools/check_prerequisites.sh tools/drop_build_tools.py tools/install_engine.sh tools/requirements.py tools/

FROM tools AS engine-cpu
RUN --mount=type=cache,target=/root/.cache/pip make engine VENV=/opt/octet ENGINE=cpu

FROM engine-cpu AS build-cpu
COPY CMakeLists.txt README.md setup.py ./
COPY clients/python clients/python
COPY csrc csrc
COPY protos protos
COPY service service
RUN make wheel VENV=/opt/octet ENGINE=cpu

FROM engine-cpu AS environment-cpu
RUN /opt/octet/bin/python -m tools.drop_build_tools

FROM tools AS engine-cuda
RUN --mount=type=cache,target=/root/.cache/pip make engine VENV=/opt/octet ENGINE=cuda

FROM engine-cuda AS build-cuda
# nvcc is among the CUDA engine's own packages, of torch's CUDA, and CMake finds it there.
ENV OCTET_CUDA=ON
COPY CMakeLists.txt README.md setup.py ./
COPY clients/python clients/python
COPY csrc csrc
COPY protos protos
COPY service service
RUN make wheel VENV=/opt/octet ENGINE=cuda

FROM engine-cuda AS environment-cuda
RUN /opt/octet/bin/python -m tools.drop_build_tools

FROM base AS runtime
# Everything that vLLM, torch and the hub's client write lies below HOME and /tmp: the root may be read-only.
ENV HOME=/var/cache/octet \
    PATH=/opt/octet/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    VLLM_NO_USAGE_STATS=1
RUN groupadd --gid 10001 octet \
    && useradd --uid 10001 --gid 10001 --home-dir /var/cache/octet --create-home --shell /usr/sbin/nologin octet
WORKDIR /var/cache/octet
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 CMD ["octet", "health"]
ENTRYPOINT ["octet"]
CMD ["serve", "--host", "0.0.0.0"]

# There is no C++ compiler in it, so `octet serve` runs models eagerly.
FROM runtime AS cpu
COPY --from=environment-cpu /opt/octet /opt/octet
RUN --mount=type=bind,from=build-cpu,source=/src/build/dist,target=/dist \
    /opt/octet/bin/python -m pip install --no-cache-dir --no-deps --no-index /dist/octet_*.whl
USER 10001:10001

FROM runtime AS cuda
# The one exception to "no build tools": Triton, which vLLM computes with on GPUs, compiles its loader in C
# when it starts, and refuses to work without a compiler and Python's headers.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libpython3-dev \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=environment-cuda /opt/octet /opt/octet
RUN --mount=type=bind,from=build-cuda,source=/src/build/dist,target=/dist \
    /opt/octet/bin/python -m pip install --no-cache-dir --no-deps --no-index /dist/octet_*.whl
USER 10001:10001
