"""What a gateway recorded: the records, who waited for whom, and the trace that follows."""
