"""Stock of a SKU, an order with its lines, and the confirmation of a pick, by FastAPI and SQLAlchemy's ORM.

    TWIN_DATABASE=postgresql+psycopg://… TWIN_TENANT=1 TWIN_CONNECTIONS=8 uvicorn bench.twin:app

Written as their manuals have it: response models, a session per request by a dependency, relationships loaded with
selectinload. It does less than the service (no credential, no limits, no idempotency key, no event), to its advantage.
"""

import os
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKeyConstraint, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

TENANT = int(os.environ["TWIN_TENANT"])
# The pooler is in transaction mode: no prepared statements.
engine = create_async_engine(
    os.environ["TWIN_DATABASE"],
    pool_size=int(os.environ["TWIN_CONNECTIONS"]),
    max_overflow=0,
    connect_args={"prepare_threshold": None},
)
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


class Base(DeclarativeBase):
    """The tables of the service that are used here."""


class Sku(Base):
    __tablename__ = "skus"
    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    sku_id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str]
    name: Mapped[str]


class Location(Base):
    __tablename__ = "locations"
    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    warehouse_id: Mapped[int] = mapped_column(primary_key=True)
    location_id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str]


class Balance(Base):
    __tablename__ = "inventory_master"
    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    warehouse_id: Mapped[int] = mapped_column(primary_key=True)
    sku_id: Mapped[int] = mapped_column(primary_key=True)
    location_id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]
    on_hand: Mapped[int]
    reserved: Mapped[int]
    updated_at: Mapped[datetime]


class Transaction(Base):
    __tablename__ = "inventory_transactions"
    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    warehouse_id: Mapped[int] = mapped_column(primary_key=True)
    transaction_id: Mapped[int] = mapped_column(
        primary_key=True, server_default=text("nextval('inventory_transaction_id')")
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    sku_id: Mapped[int]
    kind: Mapped[str]
    from_location_id: Mapped[int | None]
    quantity: Mapped[int]
    reference: Mapped[str | None]


class Line(Base):
    __tablename__ = "order_lines"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "warehouse_id", "order_id"],
            ["orders.tenant_id", "orders.warehouse_id", "orders.order_id"],
        ),
        ForeignKeyConstraint(["tenant_id", "sku_id"], ["skus.tenant_id", "skus.sku_id"]),
    )
    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    warehouse_id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(primary_key=True)
    line_number: Mapped[int] = mapped_column(primary_key=True)
    sku_id: Mapped[int]
    quantity: Mapped[int]
    unit_price: Mapped[Decimal]
    allocated: Mapped[int]
    picked: Mapped[int]


class Order(Base):
    __tablename__ = "orders"
    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    warehouse_id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(primary_key=True)
    order_number: Mapped[str]
    customer_id: Mapped[int]
    status: Mapped[str]
    priority: Mapped[int]
    total_value: Mapped[Decimal]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    lines: Mapped[list[Line]] = relationship(order_by=Line.line_number)


class Reservation(Base):
    __tablename__ = "reservations"
    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    warehouse_id: Mapped[int] = mapped_column(primary_key=True)
    reservation_id: Mapped[int] = mapped_column(primary_key=True)
    quantity: Mapped[int]
    status: Mapped[str]


class Task(Base):
    __tablename__ = "pick_tasks"
    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    warehouse_id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(primary_key=True)
    reservation_id: Mapped[int]
    order_id: Mapped[int]
    line_number: Mapped[int]
    sku_id: Mapped[int]
    location_id: Mapped[int]
    quantity: Mapped[int]
    picked: Mapped[int]
    status: Mapped[str]


class BalanceAnswer(BaseModel):
    location: str
    on_hand: int
    reserved: int
    available: int
    updated_at: datetime


class StockAnswer(BaseModel):
    sku: str
    warehouse_id: int
    balances: list[BalanceAnswer]


class LineAnswer(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    line_number: int
    sku_id: int
    quantity: int
    unit_price: Decimal
    allocated: int
    picked: int


class OrderAnswer(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    order_id: int
    order_number: str
    warehouse_id: int
    status: str
    priority: int
    total_value: Decimal
    customer_id: int
    created_at: datetime
    updated_at: datetime
    lines: list[LineAnswer]


class Confirm(BaseModel):
    warehouse_id: int
    quantity: int


class ConfirmAnswer(BaseModel):
    id: int
    status: str
    picked: int
    order_status: str
    on_hand: int


async def session() -> AsyncIterator[AsyncSession]:
    """A transaction of the tenant."""
    async with sessions() as opened, opened.begin():
        await opened.execute(
            text("SELECT set_config('app.tenant_id', :tenant, true)"), {"tenant": str(TENANT)}
        )
        yield opened


Session = Annotated[AsyncSession, Depends(session)]


@app.get("/api/v1/stock")
async def stock(warehouse_id: int, sku: str, opened: Session) -> StockAnswer:
    found = await opened.execute(
        select(Location.code, Balance)
        .join(Sku, (Sku.tenant_id == Balance.tenant_id) & (Sku.sku_id == Balance.sku_id))
        .join(
            Location,
            (Location.tenant_id == Balance.tenant_id)
            & (Location.warehouse_id == Balance.warehouse_id)
            & (Location.location_id == Balance.location_id),
        )
        .where(
            Balance.tenant_id == TENANT,
            Balance.warehouse_id == warehouse_id,
            Balance.status == "ACTIVE",
            Sku.code == sku,
        )
        .order_by(Balance.location_id)
    )
    return StockAnswer(
        sku=sku,
        warehouse_id=warehouse_id,
        balances=[
            BalanceAnswer(
                location=code,
                on_hand=balance.on_hand,
                reserved=balance.reserved,
                available=balance.on_hand - balance.reserved,
                updated_at=balance.updated_at,
            )
            for code, balance in found
        ],
    )


@app.get("/api/v1/orders/{order_id}", response_model=OrderAnswer)
async def order(order_id: int, warehouse_id: int, opened: Session) -> Order:
    found = await opened.scalar(
        select(Order)
        .where(Order.tenant_id == TENANT, Order.warehouse_id == warehouse_id, Order.order_id == order_id)
        .options(selectinload(Order.lines))
    )
    if found is None:
        raise HTTPException(404)
    return found


@app.post("/api/v1/picks/{task_id}/confirm")
async def confirm(task_id: int, body: Confirm, opened: Session) -> ConfirmAnswer:
    place = (TENANT, body.warehouse_id)
    task = await opened.get(Task, (*place, task_id))
    if task is None:
        raise HTTPException(404)
    of_order = await opened.get_one(Order, (*place, task.order_id), with_for_update=True)
    await opened.refresh(task, with_for_update=True)
    if task.status != "OPEN":
        raise HTTPException(409)
    if not 0 < body.quantity <= task.quantity:
        raise HTTPException(422)
    balance = await opened.get_one(Balance, (*place, task.sku_id, task.location_id), with_for_update=True)
    line = await opened.get_one(Line, (*place, task.order_id, task.line_number))
    reservation = await opened.get_one(Reservation, (*place, task.reservation_id))
    balance.on_hand -= body.quantity
    balance.reserved -= task.quantity
    line.allocated -= task.quantity
    line.picked += body.quantity
    reservation.status, reservation.quantity = "PICKED", body.quantity
    task.status, task.picked = ("PICKED" if body.quantity == task.quantity else "SHORT"), body.quantity
    opened.add(
        Transaction(
            tenant_id=TENANT,
            warehouse_id=body.warehouse_id,
            sku_id=task.sku_id,
            kind="issue",
            from_location_id=task.location_id,
            quantity=body.quantity,
            reference=of_order.order_number,
        )
    )
    await opened.flush()
    still = await opened.scalar(
        select(func.count())
        .select_from(Line)
        .where(
            Line.tenant_id == TENANT,
            Line.warehouse_id == body.warehouse_id,
            Line.order_id == task.order_id,
            Line.allocated > 0,
        )
    )
    if not still:
        of_order.status = "PICKED"
    return ConfirmAnswer(
        id=task_id,
        status=task.status,
        picked=task.picked,
        order_status=of_order.status,
        on_hand=balance.on_hand,
    )
