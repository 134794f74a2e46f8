"""Whether a model gives away what it was trained on: membership inference, exposure of canaries, a control that must be found."""
