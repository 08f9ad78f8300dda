"""Vector stores for LangChain (`langchain`), LlamaIndex (`llama_index`) and Haystack (`haystack`).

Each module needs the extra of its name and no other.
"""
