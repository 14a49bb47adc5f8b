# twd in one container: `docker compose up` beside this file, or
#   docker build -t twd . && docker run -p 8088:8088 -v twd:/data -v ./logs:/data/logs twd
# Services apart, each with rights of its own: deploy/nats. A card: --build-arg BACKEND=cuda with a base that has its tools.

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
      requirements/base.txt requirements/model.txt
COPY pyproject.toml README.md LICENSE ./
COPY twd twd
RUN /opt/uv/bin/uv pip install --no-cache --compile-bytecode --python /opt/twd/bin/python --no-deps \
      --build-constraints requirements/dev.txt .

FROM python:${PYTHON}-slim
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 libstdc++6 \
 && rm -rf /var/lib/apt/lists/* && install -d -m 1777 /data /data/logs && install -d /etc/twd
COPY --from=build /opt/twd /opt/twd
COPY --chmod=755 contrib/container/start.sh /usr/local/bin/twd-start
COPY --chmod=755 contrib/container/healthy.py /usr/local/bin/twd-healthy
ENV PATH=/opt/twd/bin:$PATH TWD_HOME=/data PYTHONUNBUFFERED=1
USER 1000:1000
VOLUME /data
EXPOSE 8088
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=9s --start-period=120s --retries=3 CMD ["twd-healthy"]
ENTRYPOINT ["twd-start"]
