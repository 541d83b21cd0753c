"""Back office of an online shop: products, orders, shipments, refunds, coupons."""
