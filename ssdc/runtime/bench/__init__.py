"""The product's benchmark: times of layers and of masked contractions beside other libraries, errors, byte floors.

    runs      a layer over lengths, the suite, the headline: entries of rows
    shapes    a contraction's sizes and operands; the suite's shapes; a layer's contraction
    exact     the same contraction in float64
    peers     operations of other libraries that compute it, or that compute something else of the same size
    subjects  a contraction as something to measure: through an operator, a layer, a peer
    layers    a whole layer as something to measure
    times     the clock, the copy rate, and the rounds in which subjects take turns

Nothing is chosen by what is measured here: see `ssdc.runtime.tuning` for that.
"""
