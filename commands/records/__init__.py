"""What finished runs left behind: records, figures by protocol, tables and a page of them; without torch."""
