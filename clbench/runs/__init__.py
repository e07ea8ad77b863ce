"""Do one run: the straight line, its loop, its steps, and what is asked of a learner meanwhile."""
