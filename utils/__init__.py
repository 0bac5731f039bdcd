"""What serves everyone.

Nothing here imports the method, the networks or the data. The files and folders:

    config         from the command line to one locked configuration; config.json of a run
    sharding       where every sample, parameter and checkpoint array lives on the devices
    checkpoint     saving and restoring a run
    distributed    several processes as one job: start, agreement, end
    cluster        who takes part in such a job
    roll_call      who of them is missing, before JAX starts
    processes      what processes exchange: arrays, text
    logging        log lines, metrics.jsonl, the progress of the steps
    trackers       programs that show the metrics: wandb_run, tensorboard_run, trackio_run
    figures        grids of images, panels of curves
    page           one page of HTML that makes no request: tables, images, curves
    files          files that appear whole or not at all
    npz            reading .npz and .npy files, checked before anything is unpacked
    pickled_arrays reading pickles of arrays without running them
    weight_files   reading the weights that others have published
    errors         the one exception for mistakes that a user can mend
    words          "did you mean ...?"
    signals        SIGTERM and Ctrl-C as a flag
    memory         freed memory of the host is kept
    compiler       settings of XLA
    chips          rates and memory of devices, with their sources
    flops          FLOPs of programs, and FLOP/s of this machine
"""
