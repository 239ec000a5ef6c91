"""A certified model as a service: answers over HTTP, each of them on record (extra ``serve``)."""
