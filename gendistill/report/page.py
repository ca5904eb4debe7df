def report_html(d): return ""
