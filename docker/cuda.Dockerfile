# sglcore for NVIDIA GPUs. From the repository's root:
#   docker build -f docker/cuda.Dockerfile -t sglcore:cuda .
#   docker run --gpus all --shm-size 1g -p 30000:30000 sglcore:cuda MODEL
# The CUDA libraries come with torch's wheels, so the base image has none: the host needs a driver for CUDA 13.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/sglcore
WORKDIR /source
COPY docker/constraints-cuda.txt constraints.txt
# torch first and from its own index, so that a change of the source does not fetch it again.
RUN /opt/sglcore/bin/pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cu130 torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY plugins plugins
RUN /opt/sglcore/bin/pip install -c constraints.txt . ./plugins/*/*/ "gguf>=0.17" \
    && /opt/sglcore/bin/python -m compileall -q /opt/sglcore/lib
# Packages to add, such as "flashinfer-python==0.6.14"; its kernels need nvcc, or a package of compiled ones.
ARG PACKAGES=""
RUN if [ -n "$PACKAGES" ]; then /opt/sglcore/bin/pip install -c constraints.txt $PACKAGES; fi

FROM python:${PYTHON}-slim-bookworm
# Triton builds its launcher, and the CPU kernels themselves, with a C compiler at the first start.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home sglcore \
    && install -d -o sglcore -g sglcore /home/sglcore/.cache
COPY --from=build /opt/sglcore /opt/sglcore
ENV PATH=/opt/sglcore/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SGLCORE_HOST=0.0.0.0 \
    SGLCORE_PORT=30000 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /home/sglcore
# Models from hubs, and compiled kernels: kept in a volume, the second start is a warm one.
VOLUME /home/sglcore/.cache
EXPOSE 30000
HEALTHCHECK --interval=15s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['SGLCORE_PORT'] + '/livez', timeout=4)"]
ENTRYPOINT ["sglcore", "serve"]
