"""Networks: the trajectory model, how it acts, and the parts that agents share."""
