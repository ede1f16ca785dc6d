"""The choice of scales: statistics, the ReLU6, the solvers and which of their plans is kept."""
