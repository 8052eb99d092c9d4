"""Speed and memory, measured side by side: `python -m benchmarks.compare`.

    compare   the command                      suite     every case by name
    contest   contenders take turns            worker    a contender, in a process of its own
    ours      this library's contenders        peers     implicit, Cornac, LightFM, PyTorch, LensKit
    plan      how contests become rows         inputs    what all contenders are given
    rows      the form of a result, `met`      report    table, JSON, Markdown
    machine   what machine, and its limits     timing    medians and quartiles

    cases: training, ranking (grid), memory, cold, scaling, quality (learners)
    test_parts: pytest-benchmark for the library's own parts

NOTES.md says how each figure is defined and why each peer is set as it is.
"""
