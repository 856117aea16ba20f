"""Published studies and their claims, judged by a report when asked."""
