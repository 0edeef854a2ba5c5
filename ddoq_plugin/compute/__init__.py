"""Speed that belongs to no method: compiled loops, oneDNN products, bfloat16 on the CPU."""
