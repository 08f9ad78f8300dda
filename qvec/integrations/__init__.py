"""Vector stores for the frameworks people build with: `langchain`, `llama_index`, `haystack`.

Each needs the extra of its name and none of the others.
"""
