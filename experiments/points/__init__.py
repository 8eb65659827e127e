"""What is asked and measured: questions, traces and measured points."""
