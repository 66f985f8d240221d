"""A stand-in for the market data provider: a seeded or recorded market behind the provider's own protocol."""
