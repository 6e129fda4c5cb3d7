"""From raw tables and served models into behavior stores."""
