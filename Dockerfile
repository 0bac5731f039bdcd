# The trainer on NVIDIA GPUs. The machine needs a driver and the NVIDIA container toolkit; CUDA
# comes with JAX.
#
#   docker build -t jax-drift .
#   docker run --gpus all -v $PWD/runs:/app/runs jax-drift \
#     train_drift.py --recipe cifar10 --save_dir runs/cifar10
FROM python:3.12-slim
WORKDIR /app
COPY requirements.txt requirements-cuda.txt ./
RUN pip install --no-cache-dir -r requirements-cuda.txt
COPY . .
VOLUME /app/runs
ENTRYPOINT ["python"]
CMD ["train_drift.py", "--help"]
