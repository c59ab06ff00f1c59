# sglcore for CPUs. From the repository's root:
#   docker build -f docker/cpu.Dockerfile -t sglcore:cpu .
#   docker run -p 30000:30000 sglcore:cpu MODEL
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/sglcore
WORKDIR /source
COPY constraints.txt constraints.txt
# torch first and from its own index, so that a change of the source does not fetch it again.
RUN /opt/sglcore/bin/pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY plugins/apis plugins/apis
COPY plugins/attention/cpu_kernels plugins/attention/cpu_kernels
COPY plugins/models plugins/models
COPY plugins/parsers plugins/parsers
COPY plugins/quant plugins/quant
COPY plugins/sources plugins/sources
RUN /opt/sglcore/bin/pip install -c constraints.txt . ./plugins/*/*/ "gguf>=0.17" \
    && /opt/sglcore/bin/python -m compileall -q /opt/sglcore/lib

FROM python:${PYTHON}-slim-bookworm
# The CPU kernels are compiled for the machine's own instruction set at the first start.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home sglcore \
    && install -d -o sglcore -g sglcore /home/sglcore/.cache
COPY --from=build /opt/sglcore /opt/sglcore
ENV PATH=/opt/sglcore/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SGLCORE_HOST=0.0.0.0 \
    SGLCORE_PORT=30000
USER 10001
WORKDIR /home/sglcore
# Models from hubs, and compiled kernels: kept in a volume, the second start is a warm one.
VOLUME /home/sglcore/.cache
EXPOSE 30000
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['SGLCORE_PORT'] + '/livez', timeout=4)"]
ENTRYPOINT ["sglcore", "serve"]
