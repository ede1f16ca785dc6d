"""Inputs made up where there is no data: of sizes the model runs with, such that its BatchNormalizations know them."""
