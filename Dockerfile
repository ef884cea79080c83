# One image for backend, ML service and exporter: they differ in their command.
FROM python:3.11-slim AS build
# What to install beyond the core (docs/architecture.md lists the extras), and packages of the core to leave out. Without
# arguments the image is the whole program for a site; the Compose files leave out what only `spheroseg run` needs.
ARG EXTRAS=server,rabbitmq,postgres,codecs
ARG WITHOUT=
WORKDIR /build
RUN python -m venv --without-pip /opt/spheroseg
# The dependencies first: they change less often than the code.
COPY pyproject.toml requirements.lock README.md LICENSE NOTICE ./
RUN mkdir -p src/spheroseg && touch src/spheroseg/__init__.py \
    && pip --python /opt/spheroseg/bin/python install --no-cache-dir --no-compile -c requirements.lock ".[$EXTRAS]" \
    && if [ -n "$WITHOUT" ]; then pip --python /opt/spheroseg/bin/python uninstall --yes $WITHOUT; fi \
    && find /opt/spheroseg -depth -type d -name tests -exec rm -rf {} +
COPY src src
RUN pip --python /opt/spheroseg/bin/python install --no-cache-dir --no-compile --no-deps --force-reinstall .
# Compiles what every process loads, and nothing else: later, nobody may write there.
RUN /opt/spheroseg/bin/spheroseg --help >/dev/null \
    && /opt/spheroseg/bin/python -m spheroseg.worker.segment --help >/dev/null

FROM python:3.11-slim
RUN useradd --uid 1000 --create-home spheroseg \
    && install -d -o spheroseg -g spheroseg /data /var/lib/spheroseg
COPY --from=build /opt/spheroseg /opt/spheroseg
COPY ml /app
WORKDIR /app
USER 1000:1000
ENV PATH=/opt/spheroseg/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SPHEROSEG_DATA_DIR=/data \
    BACKEND_HOST=0.0.0.0 \
    EXPORTER_HOST=0.0.0.0
EXPOSE 8080 8000 9419
# Of the backend; the other services have their own in the Compose files.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/api/health/live', timeout=5)"]
CMD ["spheroseg", "serve"]
