"""Everything one may want to replace: routers, queue orders, autoscaling, whole engines."""
