# One image for whatever catdog is asked to be: a one-shot trainer, or the head or a worker of a Ray cluster.
# checkov:skip=CKV_DOCKER_7:The base image is BASE, which names its tag.
# `make image` builds it. Its layers go from what seldom changes to what often does: system, locked packages, catdog.
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS packages
# gpu brings CUDA's libraries along; the driver is the host's. TensorFlow's headers, 430 MB, are for who compiles against it.
ARG ACCELERATOR=cpu
COPY requirements.lock requirements-gpu.lock /locks/
RUN case "${ACCELERATOR}" in \
      cpu) lock=requirements.lock ;; \
      gpu) lock=requirements-gpu.lock ;; \
      *) echo "ACCELERATOR=${ACCELERATOR}: must be cpu or gpu" >&2; exit 2 ;; \
    esac \
    && python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --no-deps --requirement "/locks/${lock}" \
    && rm -r /opt/venv/lib/python3.*/site-packages/tensorflow/include

FROM packages AS catdog
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY catdog catdog
COPY job job
# Into a root of its own, so that the last stage gets catdog as a layer that is small.
RUN python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-build-isolation --root /package .

FROM ${BASE}
# tini hands SIGTERM on to what it runs, which as process 1 would not get it; a login shell sets a PATH of its own.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 catdog \
    && useradd --uid 10001 --gid 10001 --create-home --shell /bin/bash catdog \
    && install --directory --mode=1777 /home/catdog/.cache \
    && echo "PATH=/opt/venv/bin:\$PATH" > /etc/profile.d/venv.sh
COPY --from=packages /opt/venv /opt/venv
WORKDIR /home/catdog
COPY job/recipes job/recipes
COPY --from=catdog /package/opt/venv /opt/venv
ARG VERSION=unknown
LABEL org.opencontainers.image.title="catdog" \
      org.opencontainers.image.description="Trains a cat/dog classifier by transfer learning, alone or on a Ray cluster" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
ENV PATH="/opt/venv/bin:${PATH}" \
    HOME=/home/catdog \
    KERAS_HOME=/home/catdog/.cache/keras \
    MPLCONFIGDIR=/home/catdog/.cache/matplotlib \
    PYTHONUNBUFFERED=1
# All that is written besides runs and data sets; so the root file system can be read-only.
VOLUME ["/tmp", "/home/catdog/.cache"]
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-m", "job.node", "healthy"]
ENTRYPOINT ["tini", "--"]
CMD ["catdog", "--help"]
