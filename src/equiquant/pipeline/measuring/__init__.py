"""What is measured before anything is kept: which samples judge, how, and what few of them are worth."""
