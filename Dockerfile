# The trainer on NVIDIA GPUs. The machine needs a driver and the NVIDIA container toolkit; CUDA
# comes with JAX. docs/scale.md says what the options are for.
#
#   docker build -t jax-drift .
#   mkdir -p runs ~/.cache
#   docker run --rm --gpus all --init --stop-timeout 180 --ipc host --user "$(id -u):$(id -g)" \
#     -v "$PWD/runs:/app/runs" -v ~/.cache:/cache \
#     jax-drift train_drift.py --recipe cifar10 --save_dir runs/cifar10
FROM python:3.12-slim
WORKDIR /app
COPY requirements.txt requirements-cuda.txt requirements-gs.txt requirements.lock ./
RUN pip install --no-cache-dir -c requirements.lock -r requirements-cuda.txt -r requirements-gs.txt
COPY . .
# Data and weights of the hub, and compiled programs. JAX keeps those for users with a name alone.
ENV HOME=/cache HF_HOME=/cache/huggingface XDG_CACHE_HOME=/cache USER=drift
RUN mkdir --mode 1777 /cache
ENTRYPOINT ["python"]
CMD ["train_drift.py", "--help"]
