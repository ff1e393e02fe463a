"""The cloud over HTTP: a table of routes, in groups by whom they serve, from which router and OpenAPI document are made."""
