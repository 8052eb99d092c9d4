"""Published methods, one file each, assembled from the library's parts; each file has the formula and its source.

    trained      ssm (and logQ), ccl, zerosum, adap_tau, eql, ipl, bc_loss, popgo, resn
                 `build(settings, train, ...) -> (Model, Sampler, Step)`, from the file's `SETTINGS`
    test time    pc, tde, ddc: `adjustment(...)`, and `arm(...)` to tune its strengths
    shared       parts, branch
"""
