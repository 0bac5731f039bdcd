"""Training runs, of generators and of encoders: configuration -> parts -> loop.

As the programs do, this room knows every other; nothing but programs,
scripts, planning, benchmarks and tests imports it.

    program        from the command line to a job          job          what all trainings share
    loop           steps, log lines, scores, checkpoints   run_folder   where a run lies
    state          what steps change, and its shapes       optimizer    AdamW or Muon (muon)

    drift          the training of a generator             mae          that of an encoder
    drift_parts    what it is made of, by resolve_*        mae_parts    what it is made of
    drift_state    its state before the first step         mae_evaluation, in numbers and pictures
    flow_parts     the same for the baseline
    reals, fill_bank, host_bank       real samples on their way to the step
    drift_evaluation, collapse        what is looked at meanwhile
    reports        what a dry run prints of either      speed        MFU, and traces of steps
"""
