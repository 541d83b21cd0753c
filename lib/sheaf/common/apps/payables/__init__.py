"""Accounts payable of a company: vendors, purchase orders, invoices, approvers, payments."""
