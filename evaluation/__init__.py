"""Scoring of images, and of the generators that make them, against real images.

The commands:

    flags               the flags of eval_fid.py and sample.py, a row each
    evaluate_command    eval_fid.py: from its flags to one line of JSON
    request             what a command line of eval_fid.py asks for, checked
    score_generator     a row of fid.csv for each checkpoint and guidance scale of a generator
    score_images        one row for images that are there already
    sample_command      sample.py: grids, sweeps, PNG files, an .npz

One evaluation:

    evaluate            the scores of one set of parameters; the trainer calls it too
    scoring             a stream of images in, a row of scores out
    clock               how long its parts take
    progress            a bar with the time left
    labels              which classes the samples are of

What samples are compared with:

    reference           real images, or statistics of them, read when they are first needed
    load_reference      where a reference comes from: a data set, images in files, statistics
    reals               real images that all networks look at in one pass
    dataset_images      the images of a data set, by index
    image_files         images in folders and in .npz files
    feature_cache       features of real images on disk, for the next evaluation
    networks            --features: the networks that images are compared by
    choose_metrics      --metrics

Several evaluations, and what is kept of them:

    alphas              --cfg_scale: a list of guidance scales, or the search for the best
    sweep               an evaluation for each of them
    against             --against: two of them on the same noise, who is better, and how surely
    generators          the generator of a run or of an artifact, and its checkpoints
    fid_csv             the table of a run: one row per evaluation
    curves              drawn from the table
    pictures            samples, and the real images nearest to them
    compare_runs        several runs on one page of HTML (scripts/compare.py)
"""
