"""How plug-ins are named and cited in papers: what their decorators declare, and entries of BibTeX."""
