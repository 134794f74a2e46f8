"""Running the service: what it tells about itself, how it ends, what it defends itself against, how it is set up."""
