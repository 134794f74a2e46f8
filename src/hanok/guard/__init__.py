"""What comes in and what goes out: normal forms, rules with verdicts, detectors. Knows neither the server nor the engine."""
