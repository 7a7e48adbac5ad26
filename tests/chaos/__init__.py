"""The chaos: three workers under load, every fault, and who says whether anything was lost or came twice."""
