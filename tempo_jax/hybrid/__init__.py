"""One system inside the other: XComp's frame selection before Tempo, its token compression in Tempo's LLM."""
